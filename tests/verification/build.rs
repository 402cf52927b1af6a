//! Turns this package's features into the cfgs that the engine's files know: there they are no features, so that nobody
//! can build an engine of loom's atomics by asking for all of them.

fn main() {
    for (feature, cfg) in [("LOOM", "loom_model"), ("SHUTTLE", "shuttle_model"), ("MUTATION", "mutate_orderings")] {
        if std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some() {
            println!("cargo::rustc-cfg={cfg}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
}
