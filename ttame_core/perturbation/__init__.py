"""Perturbed images: masked, filled, or with removed pixels imputed."""
