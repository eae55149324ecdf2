//! What must hold for any decoder: the same numbers whatever the padding, the batch, the cache or the device.

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_lora::{LoraConfig, Projections, Stream, Targets};
use burn_models::decoder::{Architecture, Decoder, DecoderConfig, DecoderInput, KvCache, Padded, RopeScaling};
use burn_models::generate::{FinishReason, GenerateConfig, SamplingConfig, generate};
use hearth_tests::{assert_close, assert_l2, devices, max_abs, values};

use super::parity_decoder::{Named, loss_sum};

/// Small decoders of every family, with sizes that share no factors by accident.
pub(crate) fn configs() -> Vec<DecoderConfig> {
    let base = DecoderConfig {
        vocab_size: 97,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 10,
        max_position_embeddings: 2048,
        // Large enough for attention to differ between keys.
        initializer_range: 0.3,
        pad_token_id: Some(0),
        eos_token_id: vec![1],
        ..DecoderConfig::default()
    };
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 16.0,
    };
    vec![
        base.clone(),
        DecoderConfig {
            model_type: Architecture::Qwen2,
            num_key_value_heads: 3,
            eos_token_id: vec![1, 2],
            ..base.clone()
        },
        DecoderConfig {
            model_type: Architecture::Llama,
            tie_word_embeddings: false,
            rope_scaling: Some(scaling),
            num_key_value_heads: 6,
            ..base
        },
    ]
}

pub(crate) fn each(check: impl Fn(&DecoderConfig, &Device, &str)) {
    for config in configs() {
        for (name, device) in devices() {
            check(&config, &device, &format!("{:?} on {name}", config.model_type));
        }
    }
}

pub(crate) fn decoder(config: &DecoderConfig, device: &Device) -> Decoder {
    let model = config.init(7, FloatDType::F32, device).unwrap();
    if device.is_autodiff() { model } else { model.valid() }
}

/// Sequences of random ids of these lengths; ids 0 to 2 have meanings and do not occur.
fn sequences(config: &DecoderConfig, lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut stream = Stream::new(11, &["sequences"]);
    let mut id = || 3 + (stream.unit() * (config.vocab_size - 3) as f64) as u32;
    lengths.iter().map(|&n| (0..n).map(|_| id()).collect()).collect()
}

fn right(config: &DecoderConfig, sequences: &[Vec<u32>], device: &Device) -> DecoderInput {
    Padded::right(sequences, 0).unwrap().input(config.vocab_size, device).unwrap()
}

/// Final hidden states of each sequence of a padded batch, padding left out.
fn hidden_rows(model: &Decoder, batch: &Padded, device: &Device) -> Vec<Vec<f32>> {
    let hidden = values(model.forward_hidden(&batch.input(model.config().vocab_size, device).unwrap()));
    let width = model.config().hidden_size;
    let rows = hidden.chunks(batch.length * width).zip(batch.mask.chunks(batch.length));
    let tokens = |(row, mask): (&[f32], &[bool])| {
        row.chunks(width).zip(mask).filter(|(_, token)| **token).flat_map(|(state, _)| state.to_vec()).collect()
    };
    rows.map(tokens).collect()
}

#[test]
fn padding_and_batch_change_nothing() {
    each(|config, device, what| {
        let model = decoder(config, device);
        let sequences = sequences(config, &[5, 1, 9]);
        let alone: Vec<Vec<f32>> = sequences
            .iter()
            .map(|s| hidden_rows(&model, &Padded::right(std::slice::from_ref(s), 0).unwrap(), device).remove(0))
            .collect();
        let left = hidden_rows(&model, &Padded::left(&sequences, 0).unwrap(), device);
        let right = hidden_rows(&model, &Padded::right(&sequences, 0).unwrap(), device);
        let turned: Vec<_> = sequences.iter().rev().cloned().collect();
        let mut reversed = hidden_rows(&model, &Padded::left(&turned, 0).unwrap(), device);
        reversed.reverse();
        for (i, alone) in alone.iter().enumerate() {
            for (how, batch) in [("left", &left), ("right", &right), ("reversed", &reversed)] {
                assert_close(&format!("{what}: row {i} {how}"), &batch[i], alone, 1e-5);
            }
            let states = model.last_token_state(&Padded::left(&sequences, 0).unwrap().input(97, device).unwrap());
            let last = values(states.slice_dim(0, i..i + 1));
            assert_close(&format!("{what}: last state {i}"), &last, &alone[alone.len() - last.len()..], 1e-5);
        }
    });
}

#[test]
fn a_model_without_gradients_stays_so() {
    each(|config, device, what| {
        let training = device.clone().autodiff();
        let model = decoder(config, &training);
        let input = Padded::left(&sequences(config, &[5, 3]), 0).unwrap().input(config.vocab_size, &training).unwrap();
        let hidden = model.valid().forward_hidden(&input);
        assert!(!hidden.is_autodiff(), "{what}: a batch from a training device brought gradients");
        let want = values(model.forward_hidden(&input).without_autodiff());
        assert_close(what, &values(hidden), &want, 1e-5);
    });
}

#[test]
fn cached_equals_uncached() {
    each(|config, device, what| {
        let model = decoder(config, device);
        let sequences = sequences(config, &[4, 7]);
        let batch = Padded::left(&sequences, 0).unwrap();
        let whole = batch.input(config.vocab_size, device).unwrap();
        let want = model.forward_hidden(&whole);
        // Pieces of different sizes into a cache that is too small and must grow.
        let mut cache = KvCache::new(config, 2, 3, model.dtype(), device);
        let mut parts = Vec::new();
        for columns in [0..4, 4..5, 5..7] {
            let cut = |t: &Tensor<2, Int>| t.clone().slice_dim(1, columns.clone());
            let part = DecoderInput {
                ids: cut(&whole.ids),
                positions: cut(&whole.positions),
                mask: whole.mask.clone().map(|m| m.slice_dim(1, columns.clone())),
                until: None,
                noise: None,
            };
            parts.push(model.forward_cached(&part, &mut cache));
        }
        assert_eq!(cache.len(), batch.length);
        let (got, want) = (values(Tensor::cat(parts, 1)), values(want));
        for (i, (got, want)) in got.chunks(config.hidden_size).zip(want.chunks(config.hidden_size)).enumerate() {
            if batch.mask[i] {
                assert_close(&format!("{what}: column {i}"), got, want, 1e-5);
            }
        }
    });
}

#[test]
fn long_sequences_run_in_pieces() {
    for (name, device) in devices() {
        // Longer than the queries of one step, so that the second step sees the keys of the first.
        let config = DecoderConfig { num_hidden_layers: 1, ..configs().remove(0) };
        let model = decoder(&config, &device);
        let sequence = sequences(&config, &[1100]).remove(0);
        let whole = values(model.forward_hidden(&right(&config, std::slice::from_ref(&sequence), &device)));
        let mut cache = KvCache::new(&config, 1, 0, model.dtype(), &device);
        let input = right(&config, &[sequence], &device);
        let mut parts = Vec::new();
        for columns in [0..500, 500..1000, 1000..1100] {
            let cut = |t: &Tensor<2, Int>| t.clone().slice_dim(1, columns.clone());
            let part = DecoderInput {
                ids: cut(&input.ids),
                positions: cut(&input.positions),
                mask: None,
                until: None,
                noise: None,
            };
            parts.push(model.forward_cached(&part, &mut cache));
        }
        assert_close(&format!("long on {name}"), &values(Tensor::cat(parts, 1)), &whole, 1e-4);
    }
}

/// Attention weights computed one at a time, from the layer's own matrices.
fn slow_attention(model: &Decoder, ids: &[u32]) -> Vec<f32> {
    let config = model.config();
    let (d, c) = (config.hidden_size, config.head_dim);
    let layer = &model.model.layers[0];
    let table = values(model.model.embed_tokens.weight.val());
    let norm = |x: &[f64], w: &Param<Tensor<1>>| -> Vec<f64> {
        let square = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let w = values(w.val());
        x.iter().zip(w).map(|(v, w)| v / (square + config.rms_norm_eps).sqrt() * f64::from(w)).collect()
    };
    let head = |x: &[f64], linear: &burn_lora::LoraLinear, head: usize| -> Vec<f64> {
        let (w, bias) = (values(linear.weight.val()), linear.bias.as_ref().map(|b| values(b.val())));
        let out = linear.weight.dims()[1];
        let column = |o: usize| (0..d).map(|i| x[i] * f64::from(w[i * out + o])).sum::<f64>();
        (head * c..(head + 1) * c).map(|o| column(o) + bias.as_ref().map_or(0.0, |b| f64::from(b[o]))).collect()
    };
    let turn = |x: &[f64], position: usize| -> Vec<f64> {
        let angle = |i: usize| {
            let f = config.rope_theta.powf(-2.0 * (i % (c / 2)) as f64 / c as f64);
            position as f64
                * match &config.rope_scaling {
                    None => f,
                    Some(RopeScaling::Llama3 {
                        factor,
                        low_freq_factor,
                        high_freq_factor,
                        original_max_position_embeddings: old,
                    }) => {
                        let wave = std::f64::consts::TAU / f;
                        let smooth = (old / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        if wave > old / low_freq_factor {
                            f / factor
                        } else if wave < old / high_freq_factor {
                            f
                        } else {
                            (1.0 - smooth) * f / factor + smooth * f
                        }
                    }
                }
        };
        let other = |i: usize| if i < c / 2 { -x[i + c / 2] } else { x[i - c / 2] };
        (0..c).map(|i| x[i] * angle(i).cos() + other(i) * angle(i).sin()).collect()
    };
    let inputs: Vec<Vec<f64>> = ids
        .iter()
        .map(|&id| {
            let row: Vec<f64> = table[id as usize * d..][..d].iter().map(|&v| f64::from(v)).collect();
            norm(&row, &layer.input_layernorm.weight)
        })
        .collect();
    let mut all = Vec::new();
    for h in 0..config.num_attention_heads {
        let group = h / (config.num_attention_heads / config.num_key_value_heads);
        let states =
            |linear: &burn_lora::LoraLinear, index: usize, head_norm: Option<&Param<Tensor<1>>>| -> Vec<Vec<f64>> {
                let one = |(p, x): (usize, &Vec<f64>)| {
                    let y = head(x, linear, index);
                    turn(&head_norm.map_or(y.clone(), |w| norm(&y, w)), p)
                };
                inputs.iter().enumerate().map(one).collect()
            };
        let attn = &layer.self_attn;
        let queries = states(&attn.q_proj, h, attn.q_norm.as_ref().map(|n| &n.weight));
        let keys = states(&attn.k_proj, group, attn.k_norm.as_ref().map(|n| &n.weight));
        for (i, q) in queries.iter().enumerate() {
            let score = |k: &Vec<f64>| q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (c as f64).sqrt();
            let weights: Vec<f64> = keys.iter().take(i + 1).map(|k| score(k).exp()).collect();
            let total: f64 = weights.iter().sum();
            let later = std::iter::repeat_n(0.0, ids.len() - i - 1);
            all.extend(weights.iter().map(|w| (w / total) as f32).chain(later));
        }
    }
    all
}

#[test]
fn attention_equals_its_definition() {
    each(|config, device, what| {
        let model = decoder(config, device);
        let sequence = sequences(config, &[11]).remove(0);
        let input = right(config, std::slice::from_ref(&sequence), device);
        let got = values(model.attention_weights(&input, 0).unwrap());
        assert_close(what, &got, &slow_attention(&model, &sequence), 1e-5);
        assert!(model.attention_weights(&input, 99).is_none());
    });
}

#[test]
fn padding_is_harmless_to_gradients() {
    each(|config, device, what| {
        let model = decoder(config, &device.clone().autodiff());
        let sequences = sequences(config, &[8, 3]);
        let gradients = |pad: fn(&[Vec<u32>], u32) -> burn_models::Result<Padded>,
                         label: &dyn Fn(usize, usize) -> bool| {
            let batch = pad(&sequences, 0).unwrap();
            let labels: Vec<i64> = (0..batch.ids.len())
                .map(|i| if label(i, batch.length) && batch.mask[i] { i64::from(batch.ids[i]) } else { -100 })
                .collect();
            let input = batch.input(config.vocab_size, device).unwrap();
            let (sum, _) = loss_sum(&model, &input, &labels, batch.length);
            Named::of(&model, Some(&sum.backward()))
        };
        // The first token of the short row is not predicted: on the left, padding would predict it.
        let left = gradients(Padded::left, &|i, l| i != l + 5);
        let right = gradients(Padded::right, &|_, _| true);
        assert!(left.values().flatten().all(|v| v.is_finite()), "{what}: a gradient is not finite");
        for (name, want) in right {
            assert_l2(&format!("{what}: {name}"), &left[&name], &want, 1e-4);
        }
        // A row in which nothing is a token.
        let mut batch = Padded::left(&sequences, 0).unwrap();
        batch.mask[8..].fill(false);
        let input = batch.input(config.vocab_size, device).unwrap();
        let loss = model.forward_hidden(&input).sum();
        let all = Named::of(&model, Some(&loss.backward()));
        assert!(
            values(loss.without_autodiff())[0].is_finite() && all.values().flatten().all(|v| v.is_finite()),
            "{what}"
        );
    });
}

/// A decoder with adapters that do something: both factors random.
fn adapted(config: &DecoderConfig, lora: &LoraConfig, device: &Device) -> Decoder {
    let mut model = decoder(config, device).attach_lora(lora, 5).unwrap();
    for (path, linear) in model.projections_mut() {
        let Some(adapter) = &mut linear.lora else { continue };
        let shape = adapter.lora_b.dims();
        let numbers = Stream::new(9, &["b", &path]).uniform(shape[0] * shape[1], 0.2);
        adapter.lora_b = Param::from_data(TensorData::new(numbers, shape), &device.clone());
    }
    model
}

fn lora_configs() -> Vec<LoraConfig> {
    let plain = LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() };
    vec![
        plain.clone(),
        LoraConfig {
            rslora: true,
            targets: Targets::Names(vec!["q_proj".into(), "down_proj".into()]),
            ..plain.clone()
        },
        LoraConfig { dora: true, targets: Targets::Regex(r"model\.layers\.1\..*".into()), ..plain },
    ]
}

#[test]
fn merged_equals_adapted() {
    each(|config, device, what| {
        let input = right(config, &sequences(config, &[6, 4]), device);
        let plain = values(decoder(config, device).forward_hidden(&input));
        for lora in lora_configs() {
            let fresh = decoder(config, device).attach_lora(&lora, 1).unwrap();
            assert_close(&format!("{what}: fresh {lora:?}"), &values(fresh.forward_hidden(&input)), &plain, 1e-4);
            let model = adapted(config, &lora, device);
            let changed = values(model.forward_hidden(&input));
            assert!(max_abs(&changed, &plain) > 1e-2, "{what}: the adapter does nothing");
            let merged = model.merge_lora().unwrap();
            assert!(merged.adapters().is_none());
            assert_close(&format!("{what}: merged {lora:?}"), &values(merged.forward_hidden(&input)), &changed, 1e-4);
        }
    });
}

#[test]
fn adapters_train_and_the_base_does_not() {
    let _turn = hearth_tests::random_turn();
    each(|config, device, what| {
        let ad = device.clone().autodiff();
        for lora in lora_configs() {
            let model = decoder(config, &ad).attach_lora(&lora, 1).unwrap();
            let count = model.parameter_count();
            assert_eq!(count.total, config.num_parameters() + count.trainable, "{what}");
            assert_eq!(count.trainable, config.num_lora_parameters(&lora).unwrap(), "{what}");
            let input = right(config, &sequences(config, &[6, 4]), device);
            let gradients = Named::of(&model, Some(&model.forward_hidden(&input).square().sum().backward()));
            assert!(gradients.keys().all(|name| name.contains("lora_")), "{what}: {:?}", gradients.keys());
            assert!(!gradients.is_empty());
            // Dropout differs from pass to pass while training, and is off after `valid`.
            let draw = |model: &Decoder| values(model.forward_hidden(&input).without_autodiff());
            let model = adapted(config, &LoraConfig { dropout: 0.5, ..lora }, &ad);
            assert!(max_abs(&draw(&model), &draw(&model)) > 1e-3, "{what}: dropout");
            let valid = model.valid();
            assert_eq!(draw(&valid), draw(&valid), "{what}: dropout after valid");
        }
        let full = decoder(config, &ad).parameter_count();
        assert_eq!((full.total, full.trainable), (config.num_parameters(), config.num_parameters()), "{what}");
        assert_eq!(decoder(config, device).no_grad().parameter_count().trainable, 0, "{what}");
        let unmatched = LoraConfig { targets: Targets::Names(vec!["query".into()]), ..LoraConfig::default() };
        let message = decoder(config, device).attach_lora(&unmatched, 0).unwrap_err().to_string();
        assert!(message.contains("\"query\"") && message.contains("q_proj"), "{message}");
    });
}

#[test]
fn the_seed_decides_everywhere() {
    for config in configs() {
        let of = |device: &Device, seed| {
            let model = config.init(seed, FloatDType::F32, device).unwrap();
            Named::of(&model.attach_lora(&LoraConfig { dora: true, ..LoraConfig::default() }, seed).unwrap(), None)
        };
        let all = devices();
        let first = of(&all[0].1, 1);
        for (name, device) in &all {
            for (parameter, got) in of(device, 1) {
                // Only DoRA's magnitude is computed on the device.
                let tolerance = if parameter.ends_with("lora_magnitude_vector.weight") { 1e-5 } else { 0.0 };
                assert_close(&format!("{parameter} on {name}"), &got, &first[&parameter], tolerance);
            }
        }
        assert!(of(&all[0].1, 2) != first);
    }
}

#[test]
fn generation_does_not_depend_on_the_batch() {
    each(|config, device, what| {
        let model = decoder(config, device);
        let prompts = sequences(config, &[3, 9, 1, 5, 5]);
        let with = |batch_size: usize, sampling: SamplingConfig| {
            // Several stop tokens, so that rows leave the batch at different times.
            let stop = Some((50..70).collect());
            let config = GenerateConfig {
                sampling,
                batch_size,
                max_new_tokens: 12,
                stop_ids: stop,
                seed: 3,
                ..Default::default()
            };
            generate(&model, &prompts, &config).unwrap()
        };
        let samplings = [
            SamplingConfig::greedy(),
            SamplingConfig { temperature: 0.8, top_k: 40, top_p: 0.95, ..SamplingConfig::default() },
            SamplingConfig { repetition_penalty: 1.3, min_p: 0.01, ..SamplingConfig::default() },
        ];
        for sampling in samplings {
            let (one, all) = (with(1, sampling), with(8, sampling));
            for (i, (one, all)) in one.iter().zip(&all).enumerate() {
                assert_eq!(one.ids, all.ids, "{what}: request {i} with {sampling:?}");
                assert_close(&format!("{what}: log p of request {i}"), &one.logprobs, &all.logprobs, 1e-4);
                let stopped = (50..70).contains(one.ids.last().unwrap());
                assert_eq!(one.finish_reason == FinishReason::Stop, stopped);
                assert!(stopped || one.ids.len() == 12);
                // What training computes for the same tokens.
                let text = [&prompts[i][..], &one.ids].concat();
                let input = right(config, std::slice::from_ref(&text), device);
                let (first, end) = (prompts[i].len() - 1, text.len() - 1);
                let hidden = model.forward_hidden(&input).slice([0..1, first..end]);
                let rows = hidden.reshape([end - first, config.hidden_size]);
                let targets = input.ids.slice([0..1, first + 1..end + 1]).reshape([end - first]);
                let trained = values(model.token_logprobs(rows, targets));
                assert_close(&format!("{what}: recomputed log p of {i}"), &one.logprobs, &trained, 1e-4);
            }
            assert!(all.iter().any(|a| a.finish_reason == FinishReason::Stop), "{what}: nothing stopped");
        }
    });
}

#[test]
fn generation_refuses_what_it_cannot_do() {
    let (_, device) = devices().remove(0);
    let config = DecoderConfig { max_position_embeddings: 8, ..configs().remove(0) };
    let model = decoder(&config, &device);
    let run = |prompt: Vec<u32>, max_new_tokens: usize| {
        generate(&model, &[prompt], &GenerateConfig { max_new_tokens, ignore_eos: true, ..Default::default() })
    };
    assert!(run(vec![], 4).unwrap_err().to_string().contains("prompt 0 has 0 tokens"));
    assert!(run(vec![3; 8], 4).unwrap_err().to_string().contains("expected 1 to 7"));
    assert!(run(vec![97], 4).unwrap_err().to_string().contains("token id 97 in row 0"));
    // The decoder's positions end the answer too.
    assert_eq!(run(vec![3; 6], 4).unwrap()[0].ids.len(), 2);
    assert_eq!(run(vec![3; 6], 0).unwrap()[0].ids.len(), 0);
    let training = decoder(&config, &device.autodiff());
    let error = generate(&training, &[vec![3]], &GenerateConfig::default()).unwrap_err();
    assert!(error.to_string().contains("valid"), "{error}");
}
