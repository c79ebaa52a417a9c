"""Generators: models that sample tokens, which a tokenizer decodes to images."""
