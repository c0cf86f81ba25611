"""Foundation models: build, load weights, preprocess, batched forward. No arithmetic of the method."""
