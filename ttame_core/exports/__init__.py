"""Exports of an audit to other tools: MLflow and Hugging Face datasets."""
