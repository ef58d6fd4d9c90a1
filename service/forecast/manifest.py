"""The manifest of a forecaster's model folder."""

from typing import Literal

from pydantic import Field, model_validator

from service.manifest import Manifest


class ForecastManifest(Manifest):
    """A forecaster of numeric series.

    Graph inputs, besides the state: `values` float64 (B, T, F), unscaled, anything finite where missing; `mask`
    float32 (B, T, F), 1 = observed, 0 = missing; `lengths` int64 (B,), each at least 1: row b uses its first
    lengths[b] steps; `per_step` bool (): whether to compute `one_step`. Feature 0 is the target. A categorical
    feature's values are indices into its `categories`; any other category is missing.
    With K features `known_ahead`, also `ahead` float64 (B, T, K), their values at the step after each, `ahead_mask`
    float32 (B, T, K), `future` float64 (B, H, K), their values in the H steps after the last, `future_mask` (B, H, K).
    With a `longest_season`, a state tensor `season` int64 (2,): values per season and per second, longer season that
    the caller gives (such as 24 and 168 for hourly values), 1 = none. It is set in the initial state and stays.
    Perhaps a state tensor `uneven` float64 (1,): 0 as long as all values of the target were whole numbers of at least
    0; the quantiles are then never below 0.
    Outputs: `quantiles` float64 (B, H, Q), unscaled, ascending along Q, of the H values after the last step;
    `one_step` float64 (B, T, Q), of the value after each step (T = 0 without `per_step`); perhaps `seasons` int64
    (B, 2), the seasons that the forecast uses: the shortest and the one with the largest weight, 1 = none.
    """

    kind: Literal["forecast"] = "forecast"
    features: tuple[str, ...] = Field(min_length=1, description="names in the order of axis F; the first is the target")
    horizon: int = Field(gt=0, description="H: values forecast by one call of the graph")
    known_ahead: tuple[str, ...] = Field(default=(), description="features whose future values a request may have")
    categories: dict[str, tuple[str, ...]] = Field(default={}, description="the categories of categorical features")
    longest_season: int = Field(default=0, ge=0, description="values in the longest season; 0: takes no season")
    quantile_levels: tuple[float, ...] = Field(min_length=1, description="ascending, each in (0, 1), 0.5 among them")
    context: int = Field(gt=0, description="steps per training window; shorter series are forecast less well")

    @model_validator(mode="after")
    def _levels_ascend(self) -> "ForecastManifest":
        levels = self.quantile_levels
        if 0.5 not in levels or list(levels) != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
            raise ValueError("quantile_levels must ascend strictly within (0, 1) and include 0.5")
        return self

    @model_validator(mode="after")
    def _covariates_are_features(self) -> "ForecastManifest":
        if not {*self.known_ahead, *self.categories} <= {*self.features[1:]}:
            raise ValueError("known_ahead and categories must name features other than the target")
        return self

    @model_validator(mode="after")
    def _graphs_have_the_tensors(self) -> "ForecastManifest":
        needed = {"ahead", "ahead_mask", "future", "future_mask"} if self.known_ahead else set()
        for graph in (self.graph, *([self.int8.graph] if self.int8 else [])):
            if self.longest_season and "season" not in {state.name for state in graph.state}:
                raise ValueError("a longest_season needs the state tensor season")
            if not needed <= {tensor.name for tensor in graph.inputs}:
                raise ValueError(f"known_ahead needs the inputs {', '.join(sorted(needed))}")
        return self

    @property
    def outputs_seasons(self) -> bool:
        """Whether the graphs output the seasons that a forecast uses."""
        return any(tensor.name == "seasons" for tensor in self.graph.outputs)

    @property
    def target(self) -> str:
        """The name of the feature that is forecast."""
        return self.features[0]
