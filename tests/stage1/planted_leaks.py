"""Texts with one planted leak each: kind, text, what the private side holds, allowed phrases."""

from typing import NamedTuple


class Planted(NamedTuple):
    kind: str
    text: str
    readings: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    private_caption: str = ""


PLANTED = (
    # readings, spelled otherwise or in part
    Planted("text", "A note that asks to call anna weber.", ("Call Anna Weber",)),
    Planted("text", "A note on a table, meant for weber.", ("Call Anna Weber",)),
    Planted("text", "A note, C A L L   A N N A   W E B E R, on a table.", ("Call Anna Weber",)),
    Planted("text", "A wall with hausverwaltung  lindner on it.", ("Hausverwaltung Lindner",)),
    Planted("text", "A board with haus-verwaltung.lindner on it.", ("HausVerwaltung Lindner",)),
    Planted("text", "A mug with annaweber on it.", ("Anna Weber",)),
    Planted("text", "A badge of webber on a coat.", ("WEBER",)),
    Planted("text", "A badge of w3ber on a coat.", ("WEBER",)),
    Planted("text", "A van of klempnerei on a road.", ("KLEMPNEREI Vogt seit 1987",)),
    Planted("text", "A box of krzysztow on a shelf.", ("Krzysztów",)),
    Planted("text", "A person beside a board with zq7 on it.", ("ZQ-7",)),
    Planted("text", "A car with ab 12 cd at the back.", ("AB-12 CD",)),
    Planted("text", "A car with ab12cd at the back.", ("AB·12·CD",)),
    Planted("text", 'A wall with the words "fresh paint" on it.'),
    Planted("text", "A sign reading CLOSED hangs on a door."),
    Planted("text", "A shop window with a poster that says Open."),
    Planted("text", "A person in a QUARTZLINE shirt."),
    # names
    Planted("name", "Anna stands beside a car."),
    Planted("name", "A photo of Zorvik at a table."),
    Planted("name", "A portrait of Dr. Zorvik in an office."),
    Planted("name", "Mr Plimsen holds a cup."),
    Planted("name", "A person named plimsen sits on a chair."),
    Planted("name", "A dog called Rex on a lawn."),
    Planted("name", "Giuseppe and a friend eat pizza."),
    Planted("name", "a photo of maria gonzalez at a desk"),
    Planted("name", "A zorvik mug on a desk.", private_caption="A person, Zorvik, drinks."),
    # contact data, plates, dates, places in numbers
    Planted("contact", "A card with 555-0134 on it."),
    Planted("contact", "A poster with +49 171 5550199 at the bottom."),
    Planted("contact", "A van with (212) 555 0187 on its side."),
    Planted("contact", "A note with a.weber@example.org on it."),
    Planted("contact", "A note with weber (at) example dot org on it."),
    Planted("contact", "A banner with www.example.org above a door."),
    Planted("contact", "A shirt with example.com on its back."),
    Planted("contact", "A screen that shows @quiet_otter."),
    Planted("contact", "A screen with the user night_owl_77 on it."),
    Planted("contact", "A red car with the plate 7ABC123."),
    Planted("contact", "A parked car, B MW 1234, on a street."),
    Planted("contact", "A white van with KA 05 MH 1234."),
    Planted("contact", "A house at 12 Elm Street."),
    Planted("contact", "A receipt of 12/03/2021 on a table."),
    Planted("contact", "A poster for March 3 on a wall."),
    Planted("contact", "People on a beach in August 2019."),
    Planted("contact", "A clock that shows 10:45 on a wall."),
    Planted("contact", "A map with 52.5200, 13.4050 on a screen."),
    # places
    Planted("place", "A tower in Paris at night."),
    Planted("place", "A beach in thailand with boats."),
    Planted("place", "A street in Turkey with shops."),
    Planted("place", "The Eiffel Tower behind trees."),
    Planted("place", "A corner of Plimsen Street with a cafe."),
    # demographic
    Planted("demographic", "A man rides a bicycle."),
    Planted("demographic", "Two WOMEN sit on a bench."),
    Planted("demographic", "A little boy plays in the sand."),
    Planted("demographic", "An elderly person feeds birds."),
    Planted("demographic", "A young person with a skateboard."),
    Planted("demographic", "An Asian person eats noodles."),
    Planted("demographic", "A group of Black people at a table."),
    Planted("demographic", "A Caucasian skier on a slope."),
    Planted("demographic", "A hispanic worker on a roof."),
    Planted("demographic", "A person with dark brown skin holds a cup."),
    Planted("demographic", "A fair-skinned rider on a horse."),
    Planted("demographic", "A person with her dog on a lawn."),
    Planted("demographic", "A 35-year-old person on a chair."),
    Planted("demographic", "Give the Asian man brown skin.", allowed=("brown skin",)),
    Planted("demographic", "Give the person dark brown skin.", allowed=("brown skin",)),
    # religion
    Planted("religion", "A person in a hijab waits for a bus."),
    Planted("religion", "A Muslim family at a table."),
    Planted("religion", "A jewish person on a bench."),
    Planted("religion", "A priest walks through a park."),
    Planted("religion", "A person with a rosary in one hand."),
    Planted("religion", "People leave a mosque."),
    # health
    Planted("health", "A person in a wheelchair at a window."),
    Planted("health", "A pregnant person on a couch."),
    Planted("health", "A hand with a bandage on it."),
    Planted("health", "An insulin pen on a table."),
    Planted("health", "A person on crutches crosses a road."),
    Planted("health", "A person with a hearing aid smiles."),
    Planted("health", "A diabetic person with a meter."),
    Planted("health", "A blind person at a crossing."),
    # brands
    Planted("brand", "A person in Nike shoes runs."),
    Planted("brand", "A can of coca-cola on a table."),
    Planted("brand", "A McDonald's cup on a bench."),
    Planted("brand", "A laptop by Apple on a desk."),
    Planted("brand", "An apple laptop on a desk."),
    Planted("brand", "A toyota parked by a fence."),
    # politics
    Planted("politics", "A person with a MAGA cap."),
    Planted("politics", "Protesters walk along a road."),
    Planted("politics", "A campaign poster on a wall."),
)

# Written after the guard, which was not changed for them.
HELD_OUT = (
    Planted("text", "A person by a sign for brightwater dental.", ("BRIGHTWATER Dental Group",)),
    Planted("text", "A notebook of  O K O N K W O  on a desk.", ("Property of Okonkwo",)),
    Planted("text", "A cap with mirabeile stitched on it.", ("MIRABELLE",)),
    Planted("name", "Siobhan leans on a fence next to a goat."),
    Planted("name", "A person shakes hands with Professor Adeyemi."),
    Planted("name", "Two people and Kowalczyk in a kitchen."),
    Planted("contact", "A truck with 0800 123 4567 on the door."),
    Planted("contact", "A silver hatchback, LR65 XKD, in a driveway."),
    Planted("contact", "A phone that shows j.moreau at posteo dot net."),
    Planted("contact", "A calendar open at 14 June."),
    Planted("contact", "An envelope for 48 Rosewood Lane."),
    Planted("place", "A harbor in Norway below mountains."),
    Planted("place", "A tram on a hill in san francisco."),
    Planted("demographic", "A grandmother knits in a chair."),
    Planted("demographic", "A Korean person plays a violin."),
    Planted("demographic", "A group of middle-aged people at a bar."),
    Planted("demographic", "A bald person at a whiteboard."),
    Planted("religion", "A person in a turban sells fruit."),
    Planted("religion", "People at a baptism beside a river."),
    Planted("health", "A person with a prosthetic leg runs on a track."),
    Planted("health", "A cannula in the arm of a person on a couch."),
    Planted("brand", "A Starbucks cup on the roof of a car."),
    Planted("brand", "A person with a Gucci handbag."),
    Planted("politics", "A swastika painted on a wall."),
)
