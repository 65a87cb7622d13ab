//! Relocations in a tenth of the space (DT_RELR, glibc 2.36): 13,000 of them are read at each start. Keywords of `-z` that
//! ld(1) does not know are ignored.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
