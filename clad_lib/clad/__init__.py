"""The four stages of CLAD: latent features, self-labelling, classifier, confidence."""
