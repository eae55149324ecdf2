//! Broken input: the program refuses it with a message that names the file, the place in it and what to do, and with exit code 2
//! (usage, recipe) or 1 (run); it does not panic, does not hang, and leaves nothing behind that looks finished.
//!
//! Every row of the tables here starts the program once. What holds for all of them is checked in [`bench::check`].

mod adapters;
mod bench;
mod checkpoints;
mod data;
mod mutations;
mod outputs;
mod recipes;
mod rows;
mod runs;
mod tokenizers;
