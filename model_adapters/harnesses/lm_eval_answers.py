"""What our models of lm-eval share: answers proved, stored and given one by one. Imports lm-eval."""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.model import LM
from tqdm import tqdm  # type: ignore[import-untyped]

from model_adapters.backend import Backend, Prompt, Text, check_applied, with_system_prompts
from model_adapters.errors import SteerError
from model_adapters.harnesses.lm_eval_arguments import merged
from model_adapters.harnesses.lm_eval_progress import ShownProgress
from model_adapters.harnesses.lm_eval_record import ProofFile, guard_cache, run_described
from model_adapters.harnesses.lm_eval_requests import named, sample_indices
from model_adapters.harnesses.loop import Call, LoopThread
from model_adapters.steering import Steering


class SteeredLM(LM):
    """A model of lm-eval whose requests run on one of our backends under one steering."""

    backend: Backend
    steering: Steering
    proof: ProofFile
    loop: LoopThread

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Any:
        """Open with model arguments; one that the command line gives too (`device`) is the user's."""
        return cls(**merged(arg_dict, additional_config))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """The same from `name=value,…`."""
        return cls(**merged(utils.simple_parse_args_string(arg_string), additional_config))

    @property
    def run_identity(self) -> str:
        """Of the model and the steering."""
        return self.backend.identity.run(self.steering.fingerprint)

    def answers(
        self,
        requests: Sequence[Any],
        prompts: Sequence[Prompt],
        calls: Sequence[Call[Any]],
        read: Callable[[int, Any], tuple[Any, dict[str, Any]]],
        disable_tqdm: bool,
    ) -> list[Any]:
        """Run all calls at once; prove, store and give each answer.

        `read` turns an outcome, which has a proof, into lm-eval's answer and what the proof file says of it. Raises
        SteerError when one failed, after the others were stored.
        """
        kind = requests[0].request_type if requests else ""
        indices = sample_indices(requests)
        answers: list[Any] = [None] * len(requests)
        failures: list[tuple[int, BaseException]] = []
        with tqdm(total=len(calls), disable=disable_tqdm, desc=f"Running {kind} requests") as bar:
            progress = ShownProgress(bar, self.backend)
            for place, outcome in self.loop.as_finished(calls, progress.look):
                progress.look()
                bar.update()
                try:
                    if isinstance(outcome, BaseException):
                        raise outcome
                    check_applied(self.steering, outcome.proof, self.backend.identity)
                except Exception as problem:
                    failures.append((place, problem))
                    continue
                answer, shown = read(place, outcome)
                prompt = prompts[place]
                sent = None if isinstance(prompt, Text) else with_system_prompts(prompt, self.steering)
                self.proof.write(requests[place], indices[place], outcome.proof, sent, **shown)
                self.cache_hook.add_partial(kind, requests[place].args, answer)
                answers[place] = answer
        if failures:
            place, first = failures[0]
            raise SteerError(
                f"{len(failures)} of {len(requests)} requests failed, the first is {named(requests[place])}: "
                f"{type(first).__name__}: {first}; --use_cache keeps the answers of the others"
            ) from first
        return answers

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Use a response cache. Raises SteerError where it holds another run's answers."""
        guard_cache(cache_hook, self.run_identity, run_described(self.backend.identity, self.steering))
        super().set_cache_hook(cache_hook)
