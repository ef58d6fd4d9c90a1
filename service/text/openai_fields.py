"""Fields that clients of OpenAI's API, of vLLM and of llama.cpp send, and that this service does not have."""

from collections.abc import Mapping
from typing import Any

from service.errors import InvalidRequestError

IGNORED = frozenset(
    {
        "add_special_tokens",
        "cache_prompt",
        "detokenize",
        "id_slot",
        "ignore_eos",
        "metadata",
        "parallel_tool_calls",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "return_progress",
        "return_token_ids",
        "return_tokens",
        "return_tokens_as_token_ids",
        "safety_identifier",
        "service_tier",
        "skip_special_tokens",
        "slot_id",
        "spaces_between_special_tokens",
        "store",
        "timings_per_token",
        "user",
    }
)
"""They do not change the text: there are no special tokens and no end of text here, and the service stores nothing."""

_LEAVE = "not offered here: leave it out"
_FILTERS = "not offered here: use `top_k`, `top_p` or `min_p`"
_GRAMMAR = "not offered here: texts follow no grammar; leave it out"
_LENGTH = "use `max_tokens`"
_PENALTY = "use `repetition_penalty`, `frequency_penalty` or `presence_penalty`"

REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "allowed_token_ids": (([],), "use `logit_bias`"),
    "bad_words": (([],), "use `logit_bias`, or `stop`"),
    "cfg_scale": ((1,), _LEAVE),
    "chat_template": ((), "the template is fixed: leave it out, or write the prompt for /v1/completions"),
    "documents": (([],), _LEAVE),
    "dry_multiplier": ((0,), _PENALTY),
    "dynatemp_range": ((0,), "use `temperature`"),
    "function_call": (("none", "auto"), _LEAVE),
    "functions": (([],), _LEAVE),
    "grammar": (("",), _GRAMMAR),
    "guidance_scale": ((1,), _LEAVE),
    "guided_choice": (([],), _GRAMMAR),
    "guided_grammar": (("",), _GRAMMAR),
    "guided_json": (("", {}), _GRAMMAR),
    "guided_regex": (("",), _GRAMMAR),
    "include_stop_str_in_output": ((False,), "a text ends before its stop text: add that yourself"),
    "json_schema": (({},), _GRAMMAR),
    "length_penalty": ((1,), "only POST /generate searches, with `beams`: leave it out"),
    "logits_processors": (([],), "use `logit_bias`"),
    "max_completion_tokens": ((), _LENGTH),
    "max_new_tokens": ((), _LENGTH),
    "min_tokens": ((0,), "a text ends only at its stop texts: use `max_tokens` without `stop`"),
    "mirostat": ((0,), _FILTERS),
    "mirostat_eta": ((0.1,), _FILTERS),
    "mirostat_tau": ((5,), _FILTERS),
    "modalities": ((["text"],), "only texts are written here"),
    "n_keep": ((0, -1), "a recurrent network forgets nothing by a window: leave it out"),
    "n_predict": ((), _LENGTH),
    "n_probs": ((0,), "use `logprobs`"),
    "negative_prompt": (("",), _LEAVE),
    "penalty_alpha": ((0,), _PENALTY),
    "prediction": ((), _LEAVE),
    "prompt_embeds": (([], ""), "give `prompt` as text or tokens"),
    "prompt_logprobs": ((), "use `echo` with `logprobs`"),
    "reasoning_effort": ((), "these models do not reason: leave it out"),
    "repeat_last_n": ((-1,), "`repetition_penalty` looks at the whole text: leave it out"),
    "repeat_penalty": ((1,), _PENALTY),
    "response_format": (({"type": "text"},), _GRAMMAR),
    "smoothing_factor": ((0,), _FILTERS),
    "stop_token_ids": (([],), "use `stop`"),
    "structured_outputs": (({},), _GRAMMAR),
    "tfs_z": ((1,), _FILTERS),
    "tool_choice": (("none", "auto"), _LEAVE),
    "tools": (([],), "these models call no tools: leave it out"),
    "top_a": ((0,), _FILTERS),
    "top_n_sigma": ((-1, 0), _FILTERS),
    "truncate_prompt_tokens": ((-1,), "a prompt is read whole: cut it yourself"),
    "typical_p": ((0, 1), _FILTERS),
    "use_beam_search": ((False,), "use `best_of`, or `beams` of POST /generate"),
    "web_search_options": ((), _LEAVE),
    "xtc_probability": ((0,), _FILTERS),
}
"""They would change the text. By name: the values that ask for nothing, and what to do instead of any other value."""


def known_fields(data: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The data without fields that are `null` or change nothing. Leaves other unknown fields, for pydantic to refuse.

    Raises:
        InvalidRequestError: a field asks for a feature that this service does not offer.
    """
    known = {}
    for name, value in data.items():
        if value is None:
            continue
        if name not in fields:
            if name in IGNORED:
                continue
            if name in REFUSED:
                neutral_values, instead = REFUSED[name]
                if value in neutral_values:
                    continue
                raise InvalidRequestError(instead, f"$.{name}")
        known[name] = value
    return known
