//! The configuration: every key is checked, every refusal names file, line, key, value and allowed range, and
//! the annotated file agrees with the code. The cases are generated from `config::keys`. A new key that is
//! not documented or not covered fails these tests.

mod annotated;
mod draft;
mod hostile;
mod keys;
