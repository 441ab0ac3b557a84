"""An explainer and a family of metrics, added to ttame from outside."""
