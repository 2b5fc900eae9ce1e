use super::*;

#[test]
fn try_it() {
    let budget = Budget::anything(2);
    let config = Config { vault: Vault::AuthFile, class: Class::Strict { revokes: true }, keepers: 2, generations: 3, attempts: 4, oldest: 1, budget };
    let begun = std::time::Instant::now();
    let checked = Model::new(config, None).check(20_000_000);
    eprintln!("{} states, {} transitions, {:?} {} bytes", checked.states, checked.transitions, begun.elapsed(), size_of::<state::State>());
    eprintln!("{:?} {:?} {}", checked.reached, checked.crashed_in, checked.complete);
    if let Some(trace) = checked.violation {
        panic!("{trace}");
    }
}
