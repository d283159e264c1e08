"""The web studio: one page over run folders. Importing a module of it draws nothing and loads no model."""
