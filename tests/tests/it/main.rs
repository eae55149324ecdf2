//! Tests across crates: parity with references, properties, recipes end to end, resume, bad input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod bad_input;
mod commands;
mod data_cache;
mod data_flora;
mod data_questions;
mod data_sft;
mod decoder_files;
mod decoder_properties;
mod end_to_end;
mod eval_metrics;
mod glow_contrast;
mod glow_examples;
mod glow_properties;
mod glow_settings;
mod glow_training;
mod gnn_properties;
mod judges;
mod judges_asked;
mod judges_refused;
mod learners;
mod ops_properties;
mod parity_decoder;
mod parity_encoder;
mod parity_glow;
mod parity_gnn;
mod parity_lora;
mod parity_sampling;
mod parity_text;
mod recipe_parity;
mod recipes;
mod report;
mod resume_and_kill;
mod text_properties;
mod torch_layout;
mod train_steps;
