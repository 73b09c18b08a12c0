"""What the command line can do, a file a command: ``add_parser`` says how it is called, ``main`` does it."""
