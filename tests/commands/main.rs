//! Each command of the real program: its output, its two streams and its exit codes.

mod check;
mod demo;
mod exit_codes;
mod feed_tap;
mod inspect_validate;
mod predict;
mod systemd;
