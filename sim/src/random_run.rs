//! A whole run from one seed.
