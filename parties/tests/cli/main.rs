//! The programs as people use them: real processes, a tiny model, and everything that can go wrong.

mod cluster;
#[path = "../common/mod.rs"]
mod common;
#[path = "../../../models/tests/common/mod.rs"]
mod gguf;
mod process;
mod tiny;

mod bench;
mod benchmark;
mod demo;
mod devices;
mod encoders;
mod floors;
mod identity;
mod input;
mod networks;
mod peers;
mod sessions;
mod storage;
