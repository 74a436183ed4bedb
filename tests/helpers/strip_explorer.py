"A widget of the base class, with all that it can show: two strips, a figure and a sentence."

from mpo_nb.runs.traces import Trace
from mpo_nb.widgets import CreditExplorer
from mpo_nb.widgets.controls import Control
from mpo_nb.widgets.credit_explorer import spaces
from mpo_nb.widgets.explorer import Explorer


class StripExplorer(Explorer):
    "The credit of a response, drawn by Python."

    title = "Strips and a figure"
    main = "k"

    def __init__(self, trace: Trace, **settings):
        self.trace = trace
        self.credit = CreditExplorer(trace)
        right = Control("right", "Second lane", "window", spaces)
        moved = Control("moved", "how far the policy has moved", 2.0, low=0.0, high=5.0, step=0.05)
        super().__init__(Control("k", "tokens per action, K", 4, low=1, high=64), right, moved, **settings)

    def applies(self, values):
        return self.credit.applies(self.credit.settings(values)) & set(self.controls)

    def view(self, values):
        return self.credit.picture(**values)

    def page_axes(self):
        return {"k": [2, 4, 5, 6], "moved": [0.0, 2.0], "right": list(spaces.values())}
