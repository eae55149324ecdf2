//! `hearth lora merge`: an adapter added to its base.

use super::rows::check_model;
use crate::cli::args::MergeArgs;
use crate::run::say;

/// Texts that base plus adapter and the merged model are compared on.
const PROBES: usize = 4;

/// Writes the merged model, and says by how much its logits differ from base plus adapter.
///
/// # Errors
/// Files that cannot be read or do not fit together; a merged model that does not compute what base plus adapter do. Nothing
/// is left under the output's name then.
pub fn merge(args: &MergeArgs) -> crate::Result<()> {
    let device = args.device.init()?;
    check_model(&args.base)?;
    let report = crate::run::merge(&args.base, &args.adapter, &args.output, args.dtype, PROBES, &device)?;
    say(&format!(
        "{}: merged as {}; largest difference of a logit {:.2e} over {} prompts (relative {:.2e})",
        args.output.display(),
        report.dtype,
        report.max_logit_difference,
        report.prompts,
        report.relative_difference
    ));
    Ok(())
}
