//! Implements the operators' commands `copy` and `gc`.

pub mod copy;
pub mod gc;
