//! The rules of the house that a compiler does not know: who may import whom, and where constants stand.

mod constants;
mod rooms;
