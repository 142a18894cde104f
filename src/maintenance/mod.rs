//! What an operator runs beside a server: `copy` and `gc`.

pub mod copy;
pub mod gc;
