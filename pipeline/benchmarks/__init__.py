"""What the pipeline costs here: the library behind ``run_pipeline.py bench``."""
