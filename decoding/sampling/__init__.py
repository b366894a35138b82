"""Laws from logits, tokens from uniforms, and the processors between them."""
