//! The shared memory as another process sees it: its documented layout, and a peer that writes noise.
#![cfg(not(loom))]

mod gateway_page;
mod layout;
mod scribbler;
