"""An audit for other tools: MLflow and Hugging Face datasets."""
