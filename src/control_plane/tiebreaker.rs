//! placeholder
pub mod state_file;
