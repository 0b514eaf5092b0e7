#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_home_counts_its_incarnations_and_one_that_cannot_be_read_begins_anew() {
    let home = std::env::temp_dir().join(format!("polymath-incarnation-{}", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    assert_eq!(last_incarnation(&home), None);
    assert_eq!(next_incarnation(&home).unwrap(), 1);
    assert_eq!(next_incarnation(&home).unwrap(), 2);
    store(&incarnation_file(&home), u64::MAX).unwrap();
    assert_eq!(next_incarnation(&home).unwrap(), 0, "there is no last one");
    std::fs::write(incarnation_file(&home), "torn").unwrap();
    assert_eq!(next_incarnation(&home).unwrap(), 1);
    std::fs::remove_dir_all(&home).unwrap();
}
