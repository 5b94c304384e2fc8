//! The client's way out through a proxy: one that this test plays, which answers as it likes, and those that people have.

mod real;
mod scripted;
