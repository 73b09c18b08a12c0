"""Makes the files that the runtimes need from a model's original, third-party files, without any framework."""
