"""A package for tests' subprocesses that gives Inspect a scripted judge and a scripted model, both counted.

What they say is in the JSON file that SCRIPT names; every call is a line in the file that CALLS names.
"""

import json
from pathlib import Path

MODULE = """
import asyncio, hashlib, json, os, re

from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, modelapi


def script():
    return json.load(open(os.environ["SCRIPT"]))


def count(kind, text):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps([kind, text]) + "\\n")


@modelapi(name="scripted_judge")
def scripted_judge():
    class Judge(ModelAPI):
        async def generate(self, input, tools, tool_choice, config):
            asked = input[0].text
            count(self.model_name, asked)
            said = script()["judge"]
            answer = re.search(r"\\[answer (\\w+)\\]\\n(.*?)\\n\\[end of answer \\1\\]", asked, re.S)[2]
            reply = next((reply for mark, reply in said.items() if mark in answer), said[""])
            if reply == "raise":
                raise RuntimeError("the judge is down")
            tag = "behavior" if "Behavior: " in asked else "coherence"
            output = ModelOutput.from_content("judge-as-served", reply.replace("TAG", tag))
            output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
            return output

    return Judge


@modelapi(name="scripted_steered")
def scripted_steered():
    from model_adapters.backends.scripted import ScriptedBackend
    from model_adapters.harnesses.inspect_request import RequestModel
    from model_adapters.identity import ModelIdentity

    class Steered(RequestModel):
        provider = "scripted_steered"

        def __init__(self, model_name, base_url=None, api_key=None, config=None, **model_args):
            super().__init__(model_name, config)
            identity = ModelIdentity(name=model_name, backend="scripted")
            self._backend = ScriptedBackend(self.answer, identity=identity)

        def answer(self, request):
            sent = [message.content for message in request.prompt]
            sent += [prompt.text for prompt in request.steering.system_prompts]
            count("model", sent[-1] if request.steering else "control " + sent[-1])
            found = script()
            return found["model"].replace("STEERING", request.steering.fingerprint)

        async def generate(self, input, tools, tool_choice, config):
            await asyncio.sleep(script().get("delay", 0))
            return await super().generate(input, tools, tool_choice, config)

        async def backend(self):
            return self._backend

    return Steered
"""


class ScriptedSite:
    """The package's folder, its script and its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._script, self._calls = folder / "site", folder / "script.json", folder / "calls.jsonl"
        info = self.folder / "scripted_site-1.0.dist-info"
        info.mkdir(parents=True)
        (self.folder / "scripted_site.py").write_text(MODULE)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted-site\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[inspect_ai]\nscripted_site = scripted_site\n")
        self._calls.write_text("")
        self.say()

    def say(self, judge=None, model="<thinking>hm</thinking><answer>C</answer>", delay=0.0) -> None:
        """What the judge replies, by a text in the answer it judges (`""` for any), and what the model answers."""
        replies = {"": "<TAG>4</TAG>"} if judge is None else judge
        self._script.write_text(json.dumps({"judge": replies, "model": model, "delay": delay}))

    def environment(self) -> dict[str, str]:
        """What a subprocess needs to find both."""
        return {"SCRIPT": str(self._script), "CALLS": str(self._calls)}

    def calls(self, kind: str | None = None) -> list[str]:
        """What was asked so far, of the model, or of a judge by name; of all where none is named."""
        rows = [json.loads(line) for line in self._calls.read_text().splitlines()]
        return [text for one, text in rows if kind is None or one == kind]
