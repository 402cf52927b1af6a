//! Turns this package's feature into the cfg that the engine's files know: there it is no feature, so that nobody
//! can build an engine of loom's atomics by asking for all of them.

fn main() {
    if std::env::var_os("CARGO_FEATURE_LOOM").is_some() {
        println!("cargo::rustc-cfg=loom_model");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
