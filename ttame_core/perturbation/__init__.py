"""Changed images: masked, filled, and with pixels imputed."""
