//! The messages of `proto/podresources.proto`, generated.

#[allow(missing_docs, missing_debug_implementations, non_snake_case, nonstandard_style, unused)]
#[allow(clippy::all, clippy::absolute_paths, clippy::or_fun_call, clippy::unwrap_used)]
#[allow(clippy::cast_possible_truncation)]
#[rustfmt::skip]
mod podresources {
    include!(concat!(env!("OUT_DIR"), "/podresources.rs"));
}

pub(crate) use podresources::*;
