//! Whether every stage finds what it reads, and whether that is of the right sort.

use super::{Place, Report};
use crate::recipe::{Artifact, DataFormat, DataSource, InitModel, ModelSource, Recipe, Sentences, Source, Stage};

pub(super) fn check(report: &mut Report) {
    let recipe = report.recipe();
    for (index, stage) in recipe.stages.iter().enumerate() {
        for (place, field, source) in inputs(index, stage) {
            reference(report, index, &place, source);
            if let Some(found) = artifact(recipe, index, source) {
                sort(report, &place, source, stage.kind().needs(field), found);
            }
        }
        match stage {
            Stage::MergeLora(merge) => same_base(report, index, "base", &merge.base, &merge.adapter),
            Stage::GlowTrain(train) if train.model.use_graph && train.model.gnn.prompt_nodes => {
                let Source::Stage(name) = &train.embeddings else { continue };
                let embed = recipe.stages[..index].iter().find(|stage| stage.name() == name);
                if let Some(Stage::Embed(embed)) = embed
                    && embed.sentences != Sentences::OneForAll
                {
                    let place = Place::stage(index).at("model").at("gnn").at("prompt_nodes");
                    let message = format!("stage `{name}` makes no vectors for prompt nodes");
                    let problem = report.at(&place, message).help(format!("`{name}` needs sentences: OneForAll"));
                    report.push(problem);
                }
            }
            Stage::GraphQuestionEval(eval) => {
                if let Source::Data(key) = &eval.data
                    && let Some(DataSource::Chat(data)) = recipe.data.get(key)
                    && data.only_path().is_none()
                {
                    let message = format!("`{key}` is more than a path: its questions are not those that were made");
                    report.add(&Place::stage(index).at("data"), message);
                }
                if let Some(adapter) = &eval.adapter {
                    same_base(report, index, "model", &eval.model, adapter);
                }
            }
            Stage::JudgeEval(judge) => {
                for trained in [&judge.adapter, &judge.value_head].into_iter().flatten() {
                    same_base(report, index, "model", &judge.model, trained);
                }
            }
            _ => {}
        }
    }
}

/// The inputs of a stage with their places.
pub(super) fn inputs(index: usize, stage: &Stage) -> Vec<(Place, &'static str, &Source)> {
    let place = |field: &str| Place::stage(index).at(field);
    stage
        .inputs()
        .into_iter()
        .enumerate()
        .map(|(nth, (field, source))| match stage {
            // Its only input is a list.
            Stage::GraphQuestions(_) => (place(field).key(nth), field, source),
            // The targets come after the weights and the embeddings.
            Stage::GlowEval(_) if field == "targets" => (place(field).key(nth - 2), field, source),
            _ => (place(field), field, source),
        })
        .collect()
}

/// Whether the name in a source is one that stage `index` can refer to.
fn reference(report: &mut Report, index: usize, place: &Place, source: &Source) {
    let recipe = report.recipe();
    let models: Vec<&str> = recipe.models.keys().map(String::as_str).collect();
    let data: Vec<&str> = recipe.data.keys().map(String::as_str).collect();
    let earlier: Vec<&str> = recipe.stage_names().take(index).collect();
    let (name, what, known) = match source {
        Source::Model(key) => (key.as_str(), "entry of `models`", &models),
        Source::Data(key) => (key.as_str(), "entry of `data`", &data),
        Source::Stage(name) => (name.as_str(), "earlier stage", &earlier),
        Source::Path(_) | Source::Hub(_) => return,
    };
    if known.contains(&name) {
        return;
    }
    let problem = report.at(place, format!("there is no {what} called `{name}`")).accepted(name, known.iter().copied());
    let other = match name {
        _ if models.contains(&name) => Some("Model"),
        _ if data.contains(&name) => Some("Data"),
        _ if earlier.contains(&name) => Some("Stage"),
        _ => None,
    };
    report.push(match (other, source, recipe.stage_index(name)) {
        (Some(tag), ..) => problem.label(format!("did you mean {tag}(\"{name}\")?")),
        (None, Source::Stage(_), Some(own)) if own == index => problem.label("this is the stage itself"),
        (None, Source::Stage(_), Some(_)) => problem.label("this stage comes later: move it up"),
        _ => problem,
    });
}

/// What a source holds, where the recipe alone says so.
fn artifact(recipe: &Recipe, index: usize, source: &Source) -> Option<Found> {
    match source {
        Source::Model(key) => match recipe.models.get(key)? {
            ModelSource::Init(InitModel::Decoder(_)) => Some(Found::Artifact(Artifact::Decoder)),
            ModelSource::Init(InitModel::Encoder(_)) => Some(Found::Artifact(Artifact::Encoder)),
            ModelSource::Path(_) | ModelSource::Hub(_) => Some(Found::Model),
        },
        Source::Data(key) => Some(Found::Artifact(match recipe.data.get(key)? {
            DataSource::Flora(_) | DataSource::Synthetic(_) => Artifact::Flora,
            DataSource::Chat(_) | DataSource::SyntheticChats(_) => Artifact::Chats,
            DataSource::Hub(hub) => match hub.format {
                DataFormat::Flora => Artifact::Flora,
                DataFormat::Chat => Artifact::Chats,
            },
        })),
        Source::Stage(name) => {
            let mut stages = recipe.stages[..index].iter().filter(|stage| stage.name() == name);
            match (stages.next(), stages.next()) {
                (Some(stage), None) => Some(stage.output().map_or(Found::Nothing, Found::Artifact)),
                // None, or several of one name: reported elsewhere.
                _ => None,
            }
        }
        Source::Hub(_) => Some(Found::Model),
        Source::Path(_) => None,
    }
}

/// What a source turned out to hold.
#[derive(Clone, Copy, PartialEq)]
enum Found {
    Artifact(Artifact),
    /// A model folder: its `config.json` says of which sort, and the rules of the environment read it.
    Model,
    /// A stage that leaves nothing to build on.
    Nothing,
}

fn sort(report: &mut Report, place: &Place, source: &Source, needed: Artifact, found: Found) {
    let found = match found {
        Found::Artifact(found) if needed.takes(found) => return,
        Found::Model if needed.is_model() => return,
        Found::Artifact(found) => found.to_string(),
        Found::Model => "a model".to_owned(),
        Found::Nothing => "only an evaluation".to_owned(),
    };
    let problem = report.at(place, format!("{source} is {found}, but {needed} is needed here"));
    report.push(match (needed, source) {
        (Artifact::Decoder | Artifact::Reader, Source::Stage(name)) if found == Artifact::Adapter.to_string() => {
            problem
                .label("an adapter without its base")
                .help(format!("merge it first: MergeLora(base: …, adapter: Stage(\"{name}\"))"))
        }
        (Artifact::Adapter, Source::Stage(_)) if found == Artifact::Decoder.to_string() => {
            problem.help("there is an adapter to merge only after an Sft with `lora`")
        }
        _ => problem,
    });
}

/// An adapter, and a value head, only fits the model it was trained on, which `field` has to name.
fn same_base(report: &mut Report, index: usize, field: &str, base: &Source, adapter: &Source) {
    let recipe = report.recipe();
    let Source::Stage(name) = adapter else { return };
    let trained = recipe.stages[..index].iter().find(|stage| stage.name() == name);
    // Of sources that lead nowhere it is enough to say that.
    let sound = |source: &Source| match source {
        Source::Model(key) => recipe.models.contains_key(key),
        Source::Stage(name) => recipe.stage_index(name).is_some(),
        Source::Path(_) | Source::Hub(_) => true,
        Source::Data(_) => false,
    };
    let model = match trained {
        Some(Stage::Sft(trained)) if trained.lora.is_some() => &trained.model,
        Some(Stage::ValueHeadTrain(trained)) => &trained.model,
        _ => return,
    };
    if sound(model) && sound(base) && folder(recipe, model) != folder(recipe, base) {
        let problem =
            report.at(&Place::stage(index).at(field), format!("{adapter} was trained on {model}, not on {base}"));
        report.push(problem.label(format!("expected {model}")));
    }
}

/// A source with the names of model folders looked up, so that two names of one folder are equal.
fn folder(recipe: &Recipe, source: &Source) -> Source {
    match source {
        Source::Model(key) => match recipe.models.get(key) {
            Some(ModelSource::Path(path)) => Source::Path(path.clone()),
            Some(ModelSource::Hub(hub)) => Source::Hub(hub.clone()),
            _ => source.clone(),
        },
        _ => source.clone(),
    }
}
