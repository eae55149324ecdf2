//! `parity: true`: the choices of the published implementation where others are possible, in one word.

use serde::Serialize;

use super::{
    Embed, GlowEval, GlowTrain, GraphQuestions, Inputs, PatienceRule, Recipe, SelectBy, Stage, TieBreak, Truncation,
    WarmupSampling, syntax,
};
use burn_models::glow::TaskNorm;
use datasets::graph_questions::AnswerStyle;
use datasets::render::NodeRender;
use datasets::sampler::Sampler;

/// A setting that parity has decided otherwise than the recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// The way to it: field names and element numbers.
    pub path: Vec<String>,
    /// Its value before, as in a recipe.
    pub before: String,
    /// Its value now.
    pub after: String,
}

/// Gives every setting that [`Recipe::parity`] speaks of its published value, if the recipe asks for it, and says what that
/// has changed.
pub(super) fn rewrite(recipe: &mut Recipe) -> Vec<Change> {
    let mut changes = Vec::new();
    if recipe.parity {
        for (index, stage) in recipe.stages.iter_mut().enumerate() {
            let mut set = Setter { stage: index, changes: &mut changes };
            match stage {
                Stage::GraphQuestions(stage) => graph_questions(&mut set, stage),
                Stage::Embed(stage) => embed(&mut set, stage),
                Stage::GlowTrain(stage) => glow_train(&mut set, stage),
                Stage::GlowEval(stage) => glow_eval(&mut set, stage),
                _ => {}
            }
        }
    }
    changes
}

fn graph_questions(set: &mut Setter, stage: &mut GraphQuestions) {
    set.to("test_workflows", &mut stage.test_workflows, 200);
    set.to("strict_test_count", &mut stage.strict_test_count, true);
    set.to("node_render", &mut stage.node_render, NodeRender::PyRepr);
    set.to("answer_style", &mut stage.answer_style, AnswerStyle::Bare);
}

fn embed(set: &mut Setter, stage: &mut Embed) {
    set.to("truncation", &mut stage.truncation, Truncation::Right);
    set.to("node_render", &mut stage.node_render, NodeRender::PyRepr);
}

fn glow_train(set: &mut Setter, stage: &mut GlowTrain) {
    set.to("inputs", &mut stage.inputs, Inputs::AsIs);
    set.to("model.fusion.identical_layer_init", &mut stage.model.fusion.identical_layer_init, true);
    if let Some(warmup) = &mut stage.warmup {
        set.to("warmup.sampling", &mut warmup.sampling, WarmupSampling::Records);
        set.to("warmup.replay", &mut warmup.replay, true);
    }
    set.to("sampler", &mut stage.sampler, Sampler::Shuffle);
    set.to("drop_last", &mut stage.drop_last, true);
    set.to("shrink_batch", &mut stage.shrink_batch, false);
    if let Some(contrast) = &mut stage.contrast {
        set.to("contrast.task_norm", &mut contrast.task_norm, TaskNorm::CountAll);
    }
    set.to("patience_rule", &mut stage.patience_rule, PatienceRule::PastPatience);
    set.to("select_by", &mut stage.select_by, SelectBy::ValAccuracy);
    set.to("min_delta", &mut stage.min_delta, 0.0);
    set.to("threshold", &mut stage.threshold, 0.5);
    set.to("tie_break", &mut stage.tie_break, TieBreak::None);
}

fn glow_eval(set: &mut Setter, stage: &mut GlowEval) {
    set.to("threshold", &mut stage.threshold, 0.5);
    set.to("utility.min_records", &mut stage.utility.min_records, 3);
    set.to("utility.points", &mut stage.utility.points, 100);
}

/// Sets fields of one stage.
struct Setter<'a> {
    stage: usize,
    changes: &'a mut Vec<Change>,
}

impl Setter<'_> {
    fn to<T: PartialEq + Serialize>(&mut self, field: &str, slot: &mut T, value: T) {
        if *slot == value {
            return;
        }
        // Plain values and names: none of them can fail to be written.
        let text = |value: &T| syntax::options().to_string(value).unwrap_or_default();
        let path = ["stages".to_owned(), self.stage.to_string()].into_iter();
        self.changes.push(Change {
            path: path.chain(field.split('.').map(str::to_owned)).collect(),
            before: text(slot),
            after: text(&value),
        });
        *slot = value;
    }
}
