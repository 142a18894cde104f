//! Commands for operators: `copy` and `gc`.

pub mod copy;
pub mod gc;
