"""How the embedded models were made; not shipped."""
