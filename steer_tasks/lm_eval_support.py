"""What the task files in `lm_eval_tasks` name: the task class and the scoring of its documents. Imports lm-eval.

The questions' source, count and joint digest, and the protocol's wording, go into the results of every run, whatever
the model: `configs.<task>.metadata.questions` and `.protocol`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from model_adapters.backend import Message, Messages, Sampling
from model_adapters.errors import SteerError
from model_adapters.harnesses.documents import FIELD, as_chat, messages_of, plain_form, to_field
from steer_tasks.answers import is_answered, is_right, parse_answer
from steer_tasks.options import first_of_largest, score_options
from steer_tasks.protocol import DEFAULT_ARM, FORMS, Form, Protocol
from steer_tasks.protocols import load_protocol
from steer_tasks.questions import Question, load_questions


class QuestionTask(ConfigurableTask):
    """A set of questions in one form, zero-shot, with the protocol's messages in every document.

    The task file's `dataset_kwargs` say which: `questions` (a set's name) and `form`. `--metadata` may name a
    `questions_source` (a file or folder), a `protocol`, and which of its arms is run, by `method`.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        # TaskConfig refuses the key by which the task file names this class.
        super().__init__(config={key: value for key, value in (config or {}).items() if key != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Load the questions as the dataset's split `test`, and record where they and their wording come from."""
        asked = dict(dataset_kwargs or {})
        if set(asked) != {"questions", "form"} or asked["form"] not in FORMS:
            raise SteerError(f"{self.config.task}: give dataset_kwargs questions and form (one of {', '.join(FORMS)})")
        metadata = dict(self.config.metadata or {})
        protocol = load_protocol(metadata.get("protocol", "isolated"))
        found = load_questions(asked["questions"], metadata.get("questions_source"))
        method = metadata.get("method", DEFAULT_ARM)
        documents = [document(question, protocol, asked["form"], method) for question in found.questions]
        self.dataset = {"test": datasets.Dataset.from_list(documents)}
        if self.config.output_type == "generate_until":
            self.config.generation_kwargs = {**self.config.generation_kwargs, **generation_of(protocol.sampling)}
        self.config.metadata = {**metadata, "questions": found.provenance(), "protocol": protocol.provenance()}

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> str:
        """The conversation in its plain form."""
        return plain_form(_messages(doc))

    def fewshot_context(
        self,
        doc: Mapping[str, Any],
        num_fewshot: int,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        chat_template: Callable[..., Any] | None = None,
        gen_prefix: str | None = None,
    ) -> Any:
        """The prompt for models that take text: the messages through the model's template, or in plain form.

        `--system_instruction` goes before the system message. Raises SteerError for `--num_fewshot`: the only examples
        at hand are test questions.
        """
        if num_fewshot:
            raise SteerError(f"{self.config.task} is zero-shot; leave --num_fewshot out")
        messages = _messages(doc)
        if system_instruction:
            first = Message("system", f"{system_instruction}\n\n{messages[0].content}")
            messages = (first, *messages[1:])
        if apply_chat_template and chat_template is not None:
            return chat_template(as_chat(messages))
        return plain_form(messages)


def generation_of(sampling: Sampling) -> dict[str, Any]:
    """How a protocol has answers sampled, in lm-eval's words; its seed is the run's own (`seed=`)."""
    if sampling.is_greedy:
        return {"do_sample": False, "max_gen_toks": sampling.max_tokens}
    sampled = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return {**sampled, "max_gen_toks": sampling.max_tokens}


def document(question: Question, protocol: Protocol, form: Form, method: str = DEFAULT_ARM) -> dict[str, Any]:
    """One question as lm-eval's document, the messages to send in a method's arm included."""
    return {
        "id": question.id,
        "subject": question.subject,
        "question": question.question,
        "choices": list(question.choices),
        "answer": question.answer,
        "letter": question.letter,
        FIELD: to_field(protocol.messages(question, form, method)),
    }


def score_text(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`acc`: the tagged letter is right, a missing one is a miss; `answered`: there is one of the four letters."""
    said = parse_answer(results[0])
    return {"acc": float(is_right(said, doc["letter"])), "answered": float(is_answered(said))}


def score_letters(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """`acc`: the right letter is the likeliest of the four; of equal ones the first counts."""
    return {"acc": float(first_of_largest([total for total, _ in results]) == doc["answer"])}


def score_cloze(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """`acc`, `acc_norm` and `margin` of the options' texts; see `options.score_options`."""
    return score_options([total for total, _ in results], doc["choices"], doc["answer"])


def _messages(doc: Mapping[str, Any]) -> Messages:
    messages = messages_of(doc)
    if messages is None:
        raise SteerError(f"a document lacks {FIELD}; make documents with `document`")
    return messages
