"""Statistical models out of configuration files, alea's among them."""
