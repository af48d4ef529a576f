//! What both backends keep true.
