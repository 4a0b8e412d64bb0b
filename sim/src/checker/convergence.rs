//! Law: replicas that are both UpToDate and idle hold the same bytes.

use crate::node::SimNode;

/// Holds the data areas of two idle nodes against each other.
///
/// # Panics
/// They differ.
pub fn assert_equal(first: &SimNode, second: &SimNode) {
    if let Some(block) = first.data.first_difference(&second.data) {
        panic!("violation: both are UpToDate and idle, but block {block} differs");
    }
}
