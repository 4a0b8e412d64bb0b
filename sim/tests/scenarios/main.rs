//! Scripted scenarios: one law of the product each, in a world where everything else is left to chance.

mod promote;
