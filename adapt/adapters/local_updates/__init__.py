"""Adapters that change predictions only near the support examples (Localized Latent Updates, arXiv 2212.06556)."""
