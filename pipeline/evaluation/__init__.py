"""How good a model is on labelled pictures: the library behind ``run_pipeline.py evaluate``."""
