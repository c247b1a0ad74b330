from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from trainer.toy import GUARD, ToyBrain, ToyPerson, ToyRobot, toy_model, toy_plan

from efm_core import messages
from efm_core.bags import EpisodeReader, EpisodeWriter, check_episode
from efm_core.episode import Labels, Mode
from efm_trainer.data import EpisodeRefusedError, learning_topics, load_episode, load_episodes
from efm_trainer.episode_data import EpisodeData
from efm_trainer.rollout import InProcessFleet
from efm_trainer.samples import join_samples, labels_of


def assert_same(a: EpisodeData, b: EpisodeData) -> None:
    for field in dataclasses.fields(EpisodeData):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        elif field.name in ("images", "state"):
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])
        else:
            assert one == other, field.name


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Practice episodes in memory and as bags."""
    root = tmp_path_factory.mktemp("data")
    fleet = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=root)
    brain = ToyBrain(toy_model(1), toy_model(2))
    episodes = fleet.practise(toy_plan(Mode.PRACTICE, 3), brain)
    return root / "practice", episodes


def test_a_bag_gives_what_the_process_saw(recorded):
    root, episodes = recorded
    for episode in episodes:
        path = root / episode.record.episode_id
        assert check_episode(path) == []
        assert_same(load_episode(path), episode.data)


def test_the_list_of_topics_holds_no_truth(recorded):
    assert not [name for name in learning_topics("toy", ("front",)) if "truth" in name]
    root, episodes = recorded
    path = root / episodes[0].record.episode_id
    assert "/toy/truth/state" in {message[0] for message in EpisodeReader(path).messages()}


def test_other_truth_in_the_bag_changes_nothing(recorded, tmp_path):
    root, episodes = recorded
    source = EpisodeReader(root / episodes[0].record.episode_id)
    kept = list(source.messages())
    truth = not source.record.labels.truth
    record = source.record.model_copy(update={"labels": Labels(truth=truth)})
    writer = EpisodeWriter(tmp_path, record, {t: (kind, "reliable") for t, kind, _, _ in kept})
    for topic, _, log_ns, raw in kept:
        data = raw
        if topic.endswith("truth/state"):
            data = messages.serialize(
                messages.named_scalars(log_ns, "base", {"success": float(truth)}),
                "sensor_msgs/msg/JointState",
            )
        writer.write(topic, data, log_ns)
    assert_same(load_episode(writer.finish(record)), episodes[0].data)


def test_truth_in_a_record_never_gets_into_episode_data(recorded):
    episode = recorded[1][0]
    with pytest.raises(ValueError, match=r"labels\.truth reached the trainer"):
        dataclasses.replace(episode.data, record=episode.record)


def test_evaluation_episodes_are_refused(recorded, tmp_path):
    fleet = InProcessFleet([ToyRobot()], GUARD, data_dir=tmp_path)
    episode = fleet.practise(
        toy_plan(Mode.EVALUATION, 1), ToyBrain(toy_model(1), toy_model(2))
    )[0]
    path = tmp_path / "evaluation" / episode.record.episode_id
    with pytest.raises(EpisodeRefusedError, match="mode is evaluation"):
        load_episode(path)
    with pytest.raises(ValueError, match="mode is evaluation"):
        labels_of(episode.data)


def test_unreadable_episodes_are_listed_with_their_reason(recorded, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "episode.json").write_text(json.dumps({"mode": "demo"}))
    good = recorded[0] / recorded[1][0].record.episode_id
    episodes, skipped = load_episodes([good, tmp_path / "broken"])
    assert len(episodes) == 1
    assert [s.path.name for s in skipped] == ["broken"]
    assert "episode.json" in skipped[0].reason


def test_a_camera_that_was_not_recorded_is_named(recorded):
    path = recorded[0] / recorded[1][0].record.episode_id
    with pytest.raises(EpisodeRefusedError, match="camera 'wrist' has no image"):
        load_episode(path, ("wrist",))


@pytest.fixture(scope="module")
def demonstrated():
    fleet = InProcessFleet([ToyRobot()], GUARD)
    plan = toy_plan(Mode.DEMO, 4, policy_version="", reward_version="")
    return [e.data for e in fleet.demonstrate(plan, lambda _: ToyPerson())]


def test_demonstrations_become_labels(demonstrated):
    for episode in demonstrated:
        end, labels = episode.end_row, labels_of(episode)
        assert episode.succeeded
        assert len(episode) == end + 5  # four still frames
        assert labels.steps.tolist() == [*range(end, 0, -1), 0, 0, 0, 0, 0]
        assert (labels.bins[:end] >= 0).all()
        assert (labels.bins[end:] == -1).all()
        np.testing.assert_array_equal(
            labels.bins[:end], episode.space.encode(episode.executed[:end])
        )
        np.testing.assert_array_equal(episode.executed[end:-1], 0.0)


def test_failed_demonstrations_teach_no_steps_and_no_action(demonstrated):
    record = demonstrated[0].record.model_copy(
        update={"labels": Labels(operator=False, operator_source="person")}
    )
    failed = dataclasses.replace(demonstrated[0], record=record)
    assert (labels_of(failed).bins == -1).all()
    assert (labels_of(failed).steps == -1).all()
    assert (labels_of(failed, clone_failures=True).bins[: failed.end_row] >= 0).all()


def test_hesitation_teaches_no_action_unless_asked(demonstrated):
    episode = demonstrated[0]
    executed = episode.executed.copy()
    executed[1] = 0.0
    paused = dataclasses.replace(episode, executed=executed)
    end, rest = episode.end_row, episode.space.encode(np.zeros((1, 2)))
    assert labels_of(paused).bins[1].tolist() == [-1, -1]
    assert (labels_of(paused).bins[[0, *range(2, end)]] >= 0).all()
    assert labels_of(paused, clone_pauses=True).bins[1].tolist() == rest[0].tolist()
    assert labels_of(paused).steps.tolist() == labels_of(episode).steps.tolist()


def test_a_chunk_ends_where_observations_are_missing(demonstrated):
    episode = demonstrated[0]
    space = episode.space.model_copy(update={"chunk": 3})
    bins = np.tile(episode.bins, (1, 3))
    whole = dataclasses.replace(episode, space=space, bins=bins)
    stamps = episode.stamps.copy()
    stamps[2:] += 5 * round(1e9 / episode.record.rate)
    cut = dataclasses.replace(whole, stamps=stamps)
    moves = space.encode(episode.executed[[0, 1]]), space.encode(np.zeros((1, space.size)))
    expected = np.concatenate([m.reshape(-1) for m in moves])
    assert labels_of(cut, clone_pauses=True).bins[0].tolist() == expected.tolist()
    assert labels_of(whole, clone_pauses=True).bins[0].tolist() == (
        space.encode(episode.executed[:3]).reshape(-1).tolist()
    )


def test_an_autonomous_success_never_confirms_itself(recorded):
    for episode in recorded[1]:
        assert (labels_of(episode.data).steps == -1).all()


def test_interventions_are_demonstrations(recorded):
    episode = recorded[1][0].data
    source = episode.source.copy()
    source[1:3] = 2
    taken = dataclasses.replace(episode, source=source)
    assert np.flatnonzero(labels_of(taken).bins[:, 0] >= 0).tolist() == [1, 2]


def test_samples_need_episodes():
    with pytest.raises(ValueError, match="no episode"):
        join_samples([], [])
