//! Text to documents to a bundle.
