// SPDX-License-Identifier: Apache-2.0
use super::*;
use std::path::Path;

#[test]
fn the_schemas_beside_the_code_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for kind in Kind::ALL {
        let file = folder.join(format!("{}.json", kind.name()));
        let schema = format!("{:#}\n", kind.schema());
        if std::env::var_os("CULVERT_WRITE_SCHEMAS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &schema).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            written == schema,
            "{} is old; CULVERT_WRITE_SCHEMAS=1 cargo test schemas writes it anew",
            file.display()
        );
    }
}
