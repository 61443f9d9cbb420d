//! Every kind of file in `tests/images/kinds`, against what Pillow reads in it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::corners;

#[test]
fn every_kind_of_picture_is_read_as_pillow_reads_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/kinds");
    let expected: BTreeMap<String, Vec<[f32; 3]>> =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    assert_eq!(expected.len(), 39);
    for (name, colours) in expected {
        let actual = corners(&std::fs::read(folder.join(&name)).unwrap());
        for (actual, expected) in actual.iter().zip(colours.as_flattened()) {
            // The picture is scaled to a quarter on the way, so that colours at the quarters' edges ring a little.
            assert!((actual - expected).abs() <= 4.0, "{name}: {actual:?} is not {colours:?}");
        }
    }
}
