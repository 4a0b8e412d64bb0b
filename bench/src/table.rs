//! The figures for people, as a table that Markdown shows too.

use crate::fio::Measured;
use crate::measurement::Origin;
use crate::pair::Compared;

/// A line for the pair and one for the raw file, for each job.
pub fn render(origin: &Origin, jobs: &[Compared]) -> String {
    let mut text = format!(
        "{}\n\n\
         | job | on | IOPS | MB/s | p50 µs | p99 µs | flush p50 µs | flush p99 µs | daemons µs/op | client µs/op | ratio |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        origin.line()
    );
    for job in jobs {
        let daemons = format!("{:.1}", job.pair_cpu_us_per_operation);
        text.push_str(&line(&job.job, "pair", &job.pair, &daemons, &format!("{:.2}", job.ratio)));
        text.push_str(&line("", "raw file", &job.raw, "", ""));
    }
    text
}

fn line(job: &str, on: &str, measured: &Measured, daemons: &str, ratio: &str) -> String {
    let optional = |figure: Option<f64>| figure.map_or_else(String::new, |figure| format!("{figure:.0}"));
    let shown = measured.shown();
    format!(
        "| {job} | {on} | {:.0} | {:.1} | {} | {} | {} | {} | {daemons} | {:.1} | {ratio} |\n",
        measured.iops(),
        measured.megabytes_per_second(),
        optional(shown.map(|direction| direction.p50_us)),
        optional(shown.map(|direction| direction.p99_us)),
        optional(measured.flush_p50_us),
        optional(measured.flush_p99_us),
        measured.client_cpu_us_per_operation,
    )
}
