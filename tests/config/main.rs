//! The configuration's promises: every key is checked, every refusal names file, line, key, value and what is allowed,
//! and the annotated file says the same as the code. What is tested is generated from `config::keys`, so that a new
//! key is tested, and documented, or these tests fail.

mod annotated;
mod draft;
mod hostile;
mod keys;
